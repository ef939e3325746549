import l0rnn.models.shipped

from . import models as models  # pyright: ignore[reportAssignmentType]
from .cost.budget import Budget as Budget
from .cost.objective import Penalty as Penalty
from .gates.hard_concrete import HardConcrete as HardConcrete
from .gates.recurrence import GatedGRU as GatedGRU
from .gates.recurrence import GatedLSTM as GatedLSTM
from .gates.recurrence import GatedRNN as GatedRNN
from .methods import Dense as Dense
from .methods import L0Gates as L0Gates
from .methods import Method as Method
from .models.gated_lstm import L0GatedGRU as L0GatedGRU
from .models.gated_lstm import L0GatedLSTM as L0GatedLSTM
from .models.shipped import load as load
from .recurrent.ragged_rnn import RaggedRNN as RaggedRNN
from .surgery.shrink import shrink as shrink
from .tracing.trace import explain as explain
from .training.module import PrunableModule as PrunableModule
from .training.prune import Prune as Prune
from .training.pruner import Pruner as Pruner

__version__: str

# the folder, which can be called
def models() -> dict[str, l0rnn.models.shipped.ShippedModel]: ...  # noqa: F811
