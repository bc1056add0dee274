"""Tasks for lm-evaluation-harness whose data are a file: nothing is downloaded."""

import json
from collections.abc import Sequence
from pathlib import Path

Example = dict[str, object]

_KINDS = {
    # The model picks the most probable of several answers.
    "choice": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{choices.index(answer)}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    # It says the answer by itself.
    "free": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: " {{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 1, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    # How probable is a text, from its beginning on.
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}} {{answer}}"
metric_list: [{metric: word_perplexity}]
""",
}


def example(prompt: str, answer: str, *others: str) -> Example:
    return {"prompt": prompt, "answer": answer, "choices": [answer, *others]}


def write_task(
    folder: Path, kind: str, examples: Sequence[Example], *, name: str = "", more: str = ""
) -> Path:
    """Write a task, called by its kind unless `name` is given, with its data; its YAML file.

    more: further lines, in place of those of the same key.
    """
    name = name or kind
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    lines = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    keys = [line.partition(":")[0] for line in more.splitlines()]
    body = [
        line
        for line in (lines + "test_split: test" + _KINDS[kind]).splitlines()
        if line.partition(":")[0] not in keys
    ]
    file = folder / f"{name}.yaml"
    file.write_text("\n".join([*body, more, ""]), encoding="utf-8")
    return file
