"""Networks: torsos, recurrent cells, heads, and their usual compositions. Flax Linen modules, hashable and static."""

from operant.nn.heads import DuelingHead, PolicyHead, QHead, ValueHead
from operant.nn.networks import ActionValue, ActorCritic, Critic, Policy
from operant.nn.recurrent import CELLS, GRU, LSTM, Backward, unroll_backward
from operant.nn.torsos import MLP, Conv, ImpalaResNet, MinAtarCNN, NatureCNN, NipsCNN, NoisyDense, Torso, draw_noise

__all__ = [
    "ActionValue",
    "ActorCritic",
    "Backward",
    "CELLS",
    "Conv",
    "Critic",
    "DuelingHead",
    "GRU",
    "ImpalaResNet",
    "LSTM",
    "MLP",
    "MinAtarCNN",
    "NatureCNN",
    "NipsCNN",
    "NoisyDense",
    "Policy",
    "PolicyHead",
    "QHead",
    "Torso",
    "ValueHead",
    "draw_noise",
    "unroll_backward",
]
