"""The smallest job, on this machine: python simple_example.py urls.txt dataset."""

import sys

from img2dataset_dist import download

stats = download(
    url_list=sys.argv[1],  # one URL per line; for parquet, csv and json see input_format
    output_folder=sys.argv[2],  # run it again after a crash: what is done is not fetched twice
    output_format="webdataset",
    image_size=256,
)
print(f"{stats.successes} of {stats.count} rows")
