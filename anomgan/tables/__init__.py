"""Tables: reading rows of any origin, and the schema that says what a row is.

Imports numpy, polars and the standard library; never pandas, pyarrow, torch or sklearn.
"""

from anomgan.tables.columns import Column, ColumnKind, SchemaOptions, SetAside, SetAsideReason
from anomgan.tables.labels import LabelReader, keep_normal
from anomgan.tables.missing import MISSING_TOKENS
from anomgan.tables.readers import Batch, TableReader, open_table, read_table
from anomgan.tables.schema import Rows, Schema

__all__ = [
    "MISSING_TOKENS",
    "Batch",
    "Column",
    "ColumnKind",
    "LabelReader",
    "Rows",
    "Schema",
    "SchemaOptions",
    "SetAside",
    "SetAsideReason",
    "TableReader",
    "keep_normal",
    "open_table",
    "read_table",
]
