"""What every service shares; knows nothing of any one of them."""
