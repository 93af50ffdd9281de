"""List the models that have been pulled, and the shapes that herd knows by name.

\b
Example:
  herd models
"""

import click

from herd.cli.common import human, models_home
from herd.family import SHAPES
from herd.weights.local import local_models


@click.command(help=__doc__)
def command() -> None:
    home = models_home()
    found = local_models(home)
    print(f"In {home}:" if found else f"No models in {home} yet; start with: herd pull smollm2-135m")
    for path in found:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"  {path.name:<44} {human(size):>10}")
    print("\nShapes by name:")
    for name, config in SHAPES.items():
        if not name.startswith("tiny"):
            print(f"  {name:<20} {config.parameters / 1e9:>8.2f} B parameters, context {config.context:,}")
