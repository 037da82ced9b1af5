"""``python -m cryoscale``, which torch's launcher needs: ``torchrun -m cryoscale train ...``."""

from cryoscale.cli import main

if __name__ == "__main__":
    main()
