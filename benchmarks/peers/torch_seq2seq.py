"""Sequence to sequence in PyTorch: nn.LSTM, eager, float32, on the CPU.

python -m benchmarks.peers.torch_seq2seq --task beam
"""

import itertools
import os

from benchmarks.peers import seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import BEGIN, Task
from benchmarks.peers.serving import Trainer


def build(task: Task, form: str) -> Trainer:
    """The model as PyTorch's users write it, with batches that wait in memory."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    vocabulary, beam = task.vocabulary, task.beam

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source = nn.Embedding(vocabulary, task.embed)
            self.target = nn.Embedding(vocabulary, task.embed)
            self.encoder = nn.LSTM(task.embed, task.hidden, batch_first=True)
            self.decoder = nn.LSTM(task.embed, task.hidden, batch_first=True)
            self.score = nn.Linear(task.hidden, task.hidden, bias=False)
            self.combine = nn.Linear(2 * task.hidden, task.hidden, bias=False)
            self.logits = nn.Linear(task.hidden, vocabulary)

        def forward(self, source: Tensor, inputs: Tensor) -> Tensor:
            memory, state = self.encoder(self.source(source))
            states, _ = self.decoder(self.target(inputs), state)
            return self.attend(states, memory, self.score(memory))

        def attend(self, states: Tensor, memory: Tensor, keys: Tensor) -> Tensor:
            """states [batch, queries, hidden] -> logits [batch, queries, vocabulary]."""
            context = torch.softmax(states @ keys.transpose(1, 2), -1) @ memory
            return self.logits(torch.tanh(self.combine(torch.cat([context, states], -1))))

        def greedy(self, source: Tensor) -> Tensor:
            memory, state = self.encoder(self.source(source))
            keys, tokens, chosen = self.score(memory), torch.full((len(source), 1), BEGIN), []
            for _ in range(task.length):
                states, state = self.decoder(self.target(tokens), state)
                tokens = self.attend(states, memory, keys).argmax(-1)
                chosen.append(tokens)
            return torch.cat(chosen, 1)

        def beam_search(self, source: Tensor) -> Tensor:
            """The hypotheses are the rows of the state and the queries of attention: the memory is never tiled."""
            memory, state = self.encoder(self.source(source))
            keys, sentences = self.score(memory), len(source)
            state = tuple(part.repeat_interleave(beam, 1) for part in state)
            tokens = torch.full((sentences * beam, 1), BEGIN)
            history = tokens[:, :0]
            first_row = torch.arange(0, sentences * beam, beam)[:, None]
            scores = torch.full((sentences, beam), -torch.inf)
            scores[:, 0] = 0.0
            for _ in range(task.length):
                states, state = self.decoder(self.target(tokens), state)
                logits = self.attend(states.view(sentences, beam, -1), memory, keys)
                scores = scores[:, :, None] + functional.log_softmax(logits, -1)
                scores, choice = scores.view(sentences, -1).topk(beam)
                rows = (first_row + choice // vocabulary).view(-1)
                tokens = (choice % vocabulary).view(-1, 1)
                state = tuple(part.index_select(1, rows) for part in state)
                history = torch.cat([history.index_select(0, rows), tokens], 1)
            return history.view(sentences, beam, -1)[:, 0]

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=seq2seq_tasks.LEARNING_RATE)
    words, wanted = seq2seq_tasks.random_data(task)
    sources, inputs, targets = (
        torch.from_numpy(array).long() for array in (words, seq2seq_tasks.shifted(wanted), wanted)
    )
    batches = itertools.cycle(zip(sources, inputs, targets, strict=True))
    decode = model.greedy if task.what == "greedy" else model.beam_search

    def train(steps: int) -> None:
        for source, before, target in itertools.islice(batches, steps):
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(source, before).view(-1, vocabulary), target.view(-1))
            loss.backward()
            optimizer.step()
        loss.item()

    @torch.inference_mode()
    def translate(steps: int) -> None:
        for source, *_ in itertools.islice(batches, steps):
            decode(source)

    # PyTorch adds two biases in an LSTM, which are one parameter twice.
    parameters = sum(leaf.numel() for name, leaf in model.named_parameters() if "bias_hh" not in name)
    return Trainer(train if task.what == "train" else translate, parameters, {"torch": torch.__version__})


if __name__ == "__main__":
    seq2seq_tasks.main(build)
