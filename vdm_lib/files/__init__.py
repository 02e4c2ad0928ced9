"""Bytes where they lie: TFRecords with their checks, directories that are whole or not there, gs://."""
