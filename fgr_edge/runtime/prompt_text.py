"""The words that a model is asked with: wordings that its training and its use must share.

`REASON_TEMPLATE` is Fine-R1's open-world evaluation prompt (PKU-ICST-MIPL/FineR1_ICLR2026, evaluation code).
"""

from __future__ import annotations

DEFAULT_QUESTION = "What is the specific category of the object in this image?"
DIRECT_TEMPLATE = "{question}\nAnswer with the name only."
REASON_TEMPLATE = (
    "Given the question: {question}. This is a fine-grained question. "
    "Output reasoning in <think></think> and the final answer in <answer></answer>."
)
