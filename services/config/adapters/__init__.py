"""Reads PEFT LoRA adapters and renders them for model servers.

Pure code over bytes and arrays: no storage, no keys, no records. `peft.parse_peft` is the entrance,
`trtllm_rendition.render` the exit.
"""
