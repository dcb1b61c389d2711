# SPDX-License-Identifier: Apache-2.0
"""A prior whose texts are Gaussians N(mu, d^2 I), each with its own mean and width: predictions by hand, in float64.

e = s (x_t - a mu)/v, a = sqrt(abar), s = sqrt(1 - abar), v = a^2 d^2 + s^2. Schedule indices are timesteps.
"""

from types import SimpleNamespace

import torch

from guidance import sd_step
from guidance.losses import Loss, StepInfo
from guidance.prompts import PromptEmbeddings
from utils.random_streams import RandomStreams

T = 1000
ABAR = sd_step.scaled_linear_alphas()
A, S = ABAR.sqrt(), (1 - ABAR).sqrt()
RHO, LAM = A / S, S / A


def variance(t, d):
    return ABAR[t] * d**2 + 1 - ABAR[t]


def eps(x_t, t, mu, d):
    return S[t] * (x_t - A[t] * mu) / variance(t, d)


class GaussianPrior:
    """`texts`: word -> (mu, d) of a text that has it, the first that fits; one without any is `uncond`."""

    steps_offset, num_train_timesteps, alphas_cumprod = 0, T, ABAR

    def __init__(self, **texts):
        self.texts = texts
        self.samples = 0

    def timesteps_of(self, index):
        return index

    def get_text_embeds(self, texts):
        known = [next((self.texts[name] for name in self.texts if name != "uncond" and name in text), self.texts["uncond"]) for text in texts]
        return torch.tensor(known, dtype=torch.float64)[:, None]

    def predict_noise(self, x_t, t, embeddings):
        self.samples += len(x_t)
        mu, d = (column.view(-1, 1, 1, 1) for column in embeddings[:, 0].T)
        a, s = A[t].view(-1, 1, 1, 1), S[t].view(-1, 1, 1, 1)
        return s * (x_t - a * mu) / (a**2 * d**2 + s**2)


class Exact:
    """guidance.predictor.Predictor: particles N(m, r^2), with another mean where cameras are named."""

    def __init__(self, m, r, m_camera=None):
        self.m, self.r, self.m_camera = m, r, m if m_camera is None else m_camera

    def predict_noise(self, x_t, t, cameras):
        m = self.m if cameras is None else self.m_camera
        a, s = A[t].view(-1, 1, 1, 1), S[t].view(-1, 1, 1, 1)
        return s * (x_t - a * m) / (a**2 * self.r**2 + s**2)


def streams_of(u):
    """Streams whose uniform numbers are all u."""
    streams = RandomStreams(0)
    streams.python = SimpleNamespace(random=lambda: u)
    return streams


def residual(prior, params, x, n, t, *, u=0.5, predictor=None, **info):
    """The law's residual for x and n [B,C,h,w] at timesteps t, a list."""
    loss = Loss(params)
    loss.predictor = predictor
    conditioning = PromptEmbeddings(prior, params).conditioning([0.0] * len(x))
    return loss(prior, x, n, torch.tensor(t), conditioning, StepInfo(streams=streams_of(u), **info))
