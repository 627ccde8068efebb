"""Shipped configs by their names."""

from pathlib import Path

import pytest

from configs import cars
from lafg_jax.config import shipped


def test_a_name_is_the_file_of_the_checkout_and_all_else_stays_as_it_is():
  folder = Path(cars.__file__).parent
  assert shipped.folder() == folder and "cars" in shipped.names()
  assert "__init__" not in shipped.names()
  assert shipped.find("cars") == str(folder / "cars.py")
  assert shipped.find("cars:scratch") == str(folder / "cars.py") + ":scratch"
  for given in ("configs/cars.py", "cars.py:scratch", "karz", "", "./cars", "a b"):
    assert shipped.find(given) == given


@pytest.mark.parametrize("name", ["cars", "cars:scratch"])
def test_the_config_of_a_name(name):
  expected = cars.get_config(*name.split(":")[1:])
  assert shipped.get_config(name).to_dict() == expected.to_dict()
