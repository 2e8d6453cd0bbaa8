"""What a test run leaves out to be quicker; import it before anything is run.

- Nobody cuts the power in a test, so no file is synced to disk: a run of two iterations does that
  28 times.
- YAML is parsed in C where PyYAML has it.
- Hydra composes the config of a command once. It does so twice, the first time only to read
  `hydra.mode`, which none of our configs and tests sets.
"""

import os

import yaml
from hydra._internal.hydra import Hydra

os.fsync = lambda descriptor: None
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Hydra.get_mode = lambda self, config_name, overrides: None
