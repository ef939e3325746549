from .averaging import AverageLate as AverageLate
from .callbacks import ScaleDropout as ScaleDropout
from .callbacks import WriteReport as WriteReport
from .hf import PruneCallback as PruneCallback
from .module import PrunableModule as PrunableModule
from .pruner import Pruner as Pruner
from .removal import RemoveClosedUnits as RemoveClosedUnits
