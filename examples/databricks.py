# Databricks notebook source
# MAGIC %md
# MAGIC # A list of URLs becomes a dataset
# MAGIC
# MAGIC What this needs:
# MAGIC
# MAGIC - **Compute of the access mode *Dedicated***, several workers. *Standard* and serverless compute are Spark Connect,
# MAGIC   which cannot run Python on the machines as we do; the download then says so and ends.
# MAGIC - **No autoscaling.** Each new machine divides the limits per host anew, each that goes takes its shards with it.
# MAGIC - **Storage that all machines see** for list and output: `s3://`, `gs://`, `abfs://`, by an instance profile or the
# MAGIC   secrets below. A folder below `/Volumes` works only if hard links can be made there.
# MAGIC
# MAGIC Not run on Databricks by its authors. What is tested is that these cells run in order in a classic Spark session.

# COMMAND ----------

# MAGIC %md
# MAGIC ## Install
# MAGIC
# MAGIC `pip wheel --no-deps .` in a checkout makes the wheel; put it into a volume. Installed this way it is on all
# MAGIC machines, in the Python that their tasks run in. (A pex is for clusters where `PYSPARK_PYTHON` is yours to set.)

# COMMAND ----------

# MAGIC %pip install /Volumes/main/default/files/img2dataset_dist-0.1.0-py3-none-any.whl s3fs

# COMMAND ----------

# MAGIC %md
# MAGIC ## Credentials
# MAGIC
# MAGIC The machines open the storage themselves, so what is set in a cell is not enough: it stays with the driver. Either
# MAGIC give the compute an instance profile, or set in its *Advanced options, Spark, Environment variables*:
# MAGIC
# MAGIC ```
# MAGIC AWS_ACCESS_KEY_ID={{secrets/my-scope/aws-key-id}}
# MAGIC AWS_SECRET_ACCESS_KEY={{secrets/my-scope/aws-secret-key}}
# MAGIC ```

# COMMAND ----------

# MAGIC %md
# MAGIC ## Settings

# COMMAND ----------

import os


def setting(name, default):
    """What the widget of that name says; where there are no widgets, the environment."""
    if "dbutils" not in globals():
        return os.environ.get(name.upper(), default)
    dbutils.widgets.text(name, default)
    return dbutils.widgets.get(name)


url_list = setting("url_list", "s3://my-bucket/urls.parquet")
input_format = setting("input_format", "parquet")
output_folder = setting("output_folder", "s3://my-bucket/dataset")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Download
# MAGIC
# MAGIC Run the cell again after whatever interruption: shards that are done are not fetched again. How far it is stands
# MAGIC below the cell and in the Spark UI, in the description of each job.

# COMMAND ----------

from img2dataset_dist import download

stats = download(
    url_list=url_list,
    input_format=input_format,
    url_col="url",
    output_folder=output_folder,
    output_format="webdataset",
    image_size=256,
    retries=2,
    distributor="pyspark",
    progress="plain",
)
print(f"{stats.successes} of {stats.count} rows")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What became of the rows
# MAGIC
# MAGIC `[0-9]*.parquet` leaves out what is below `_img2dataset/`. More in docs/results.md.

# COMMAND ----------

rows = spark.read.parquet(f"{output_folder}/[0-9]*.parquet")
rows.groupBy("status", "error_code").count().orderBy("count", ascending=False).show(20, False)

# COMMAND ----------

# MAGIC %md
# MAGIC To keep the rows as a table: `rows.write.mode("overwrite").saveAsTable("main.default.images")`.
