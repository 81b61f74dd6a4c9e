"""Files on disk and on S3: bytes, Parquet, tables in partitions, audio inside archives."""
