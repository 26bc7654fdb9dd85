"""`python -m services.audit`."""

from services.audit.main import main

if __name__ == "__main__":
    main()
