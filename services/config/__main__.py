"""`python -m services.config`."""

from services.config.main import main

if __name__ == "__main__":
    main()
