"""`python -m jaxai` is `jaxai`."""

from jaxai.cli import main

if __name__ == "__main__":
    main()
