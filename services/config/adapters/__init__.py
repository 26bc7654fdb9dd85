"""PEFT adapters in, renditions for model servers out."""
