"""Texts as vectors: the mean of a transformer's last hidden states."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from rhtool.lm.loading import loaded


class Encoder:
    """Texts to vectors: the mean, over tokens that are no padding, of the last hidden states.

    Args:
        source: directory or name on the hub of a transformer without a head (facebook/contriever).
        dtype: of the weights.
        batch: texts of a forward pass. Texts are encoded in the order of their lengths, so that little is padding.
        normalise: whether vectors get length 1, so that their product is the cosine.

    A text that is longer than the model takes loses its beginning.
    """

    def __init__(self, source: str, dtype: str = "float32", batch: int = 32, normalise: bool = False):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = loaded(AutoTokenizer, source, truncation_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # padding is masked, so that any token will do
        self.model = loaded(AutoModel, source, dtype=getattr(torch, dtype)).to(self.device)
        self.model.eval().requires_grad_(False)
        longest = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.longest = min(longest, self.tokenizer.model_max_length)
        self.batch, self.normalise = batch, normalise

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """(n, d) float32 on the CPU."""
        different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        found = self.tokenizer(list(different), truncation=True, max_length=self.longest)["input_ids"] if texts else []
        order = sorted(range(len(found)), key=lambda i: len(found[i]))
        each = torch.empty(len(found), self.model.config.hidden_size)
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            ids = {"input_ids": [found[i] for i in part]}
            batch = self.tokenizer.pad(ids, padding_side="right", return_tensors="pt").to(self.device)
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            each[part] = ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu()
        vectors = each[[different[text] for text in texts]]
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalise else vectors
