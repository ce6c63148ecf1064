"""`python -m img2dataset_dist` is the command `img2dataset-dist`."""

from img2dataset_dist.cli import main

if __name__ == "__main__":
    main()
