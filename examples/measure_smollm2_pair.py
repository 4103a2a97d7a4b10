"""What the SmolLM2 pair can do, as a table: accuracy of its three models, and how well the MDM fills in text that it never read.

    python examples/measure_smollm2_pair.py --data ../shared/data --out pairs/smollm2/measured.csv

Without `--data`, IOI and Greater-Than are asked on prompts of the library's own making. Ten minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mechshift_tl.recipes.smollm2_measure import measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="smollm2", help="its name or its folder")
    parser.add_argument("--n", type=int, default=300, help="prompts of each task at most")
    parser.add_argument("--n-text", type=int, default=192, help="pieces of text of 64 tokens")
    parser.add_argument("--data", type=Path, help="folder of ioi_llama.csv and greater_than.csv")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    table = measure(args.pair, args.n, args.n_text, args.data)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if args.out is not None:
        table.to_csv(args.out, index=False)
