"""What a person sees and types: output, questions, failures, progress."""
