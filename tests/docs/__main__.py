"""`python -m tests.docs`: the code blocks of README and docs/ that are not run, each with its reason."""

from __future__ import annotations

from tests.docs.blocks import all_blocks


def main() -> None:
    for block in all_blocks():
        if "static" in block.options:
            print(f"{block}: {block.options['static']}")


if __name__ == "__main__":
    main()
