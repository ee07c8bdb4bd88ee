"""Bad input, one table: what is wrong -> overrides, and what the message says of what was got, expected and to do.

`{w}` is the folder of wrong things that `test_bad_input.py` makes.
"""

NO_FILES = "data=synthetic"

TABLE = {
    "unknown key": ("optim.learning_rate=1", "Could not override 'optim.learning_rate'", "+optim.learning_rate=1"),
    "unknown key, appended": ("+optim.learning_rate=1", "optim", "unexpected keyword argument", "see configs/optim"),
    "unknown experiment": ("experiment=nope", "'experiment/nope'", "Available options", "llama3b_litespark"),
    "unknown choice of a group": ("model=nope", "'model/nope'", "Available options", "tiny"),
    "unknown group": ("modell=tiny", "Could not override 'modell'"),
    "value of another kind": ("trainer.batch_rows=many", "trainer.batch_rows: got 'many'", "a whole number", "set"),
    "number as text": ("optim.lr=fast", "optim.lr: got 'fast', expected a number"),
    "value out of range": ("optim.lr=-1", "optim.lr: got -1, expected a positive"),
    "unknown precision": ("precision.name=fp4", "precision.name: got 'fp4', expected auto, fp32 or bf16"),
    "unknown recompute": ("recompute.mode=some", "recompute.mode: got 'some', expected none or full"),
    "unknown accelerator": ("trainer.accelerator=tpu", "got 'tpu', expected auto, cpu or cuda"),
    "unknown strategy": ("strategy.name=tp", "strategy.name: got 'tp', expected single, ddp or fsdp"),
    "unknown backend of an op": (f"{NO_FILES} ops.attention=nope", "ops.attention=nope", "known", "reference, sdpa"),
    "tokens and steps": ("budget.tokens=9", "got tokens and steps, expected one", "budget.tokens=null"),
    "missing data": ("data.source={w}/nowhere", "{w}/nowhere does not exist", "Set data.source to"),
    "missing SlimPajama": ("data=slimpajama", "{w}/data/slimpajama does not exist", "litespark prepare"),
    "no source": ("data=text", "data.source: got None, expected a text", "set data.source="),
    "remote data": ("data.source=s3://bucket/text", "remote address", "expected a local path", "Copy"),
    "empty folder": ("data.source={w}/empty", "{w}/empty holds no file named .txt", "Set data.source to"),
    "empty file": ("data.source={w}/empty.txt", "{w}/empty.txt", "no document", "Set data.source to"),
    "bytes that are not text": ("data.source={w}/bytes.txt", "1 of 1 documents", "invalid_utf8", "Mend or leave out"),
    "lines that are not JSON": ("data.source={w}/broken.jsonl", "2 of 2 documents", "data.text_field", "allows 1.00%"),
    "archive that is none": ("data.source={w}/broken.jsonl.zst", "{w}/broken.jsonl.zst is damaged", "Copy or download"),
    "folder named as a file": ("data.source={w}/folder.jsonl", "{w}/folder.jsonl holds no file named", "Set data.sou"),
    "folder for the tokenizer's file": (
        "data.source={w}/text data.tokenizer={w}/empty",
        "{w}/empty/tokenizer.json does not exist",
        "expected a tokenizer.json",
    ),
    "tokenizer that is none": (
        "data.source={w}/text data.tokenizer={w}/broken.jsonl",
        "{w}/broken.jsonl is not a tokenizer.json",
        "Name one",
    ),
    "tokenizer of another vocabulary": (
        "data.source={w}/text data.tokenizer={w}/prepared model.vocabulary=512",
        "data.vocabulary=512",
        "has 300 ids",
        "Set data.vocabulary=300",
    ),
    "file for the folder of prepared data": (
        "data.source={w}/text data.name=new data.root={w}/file",
        "data.root={w}/file",
        "Set data.root",
    ),
    "vocabulary that differs from the manifest": (
        "data.source={w}/prepared model.vocabulary=512",
        "model.vocabulary: got 512, expected the 300",
        "set model.vocabulary=300",
    ),
    "chunks without manifest": ("data.source={w}/no_manifest", "{w}/no_manifest has no manifest.json", "prepare"),
    "truncated chunk": ("data.source={w}/short_chunk", "has 100 bytes; the manifest says", "prepare the data again"),
    "too little text for one row": (
        "data.source={w}/prepared data.sequence_length=60000 model.max_sequence_length=60000",
        "holds",
        "data.sequence_length=60000 needs at least 60001",
        "Set data.sequence_length to at most",
    ),
    "sequences longer than the model's": (
        f"{NO_FILES} data.sequence_length=128",
        "data.sequence_length: got 128, expected at most model.max_sequence_length = 64",
        "lower the one or raise the other",
    ),
    "key/value heads that do not divide": (
        "model.kv_heads=3",
        "model.heads 2 is not a multiple of model.kv_heads 3",
        "choose a divisor",
    ),
    "heads that do not divide the width": (
        "model.heads=3 model.kv_heads=3",
        "model.width 32 is not a multiple of model.heads 3",
        "set model.head_width",
    ),
    "batch that does not divide": (
        f"{NO_FILES} trainer.batch_rows=3",
        "trainer.batch_rows: got 3, expected a multiple of data.micro_batch_size × ranks = 2 × 1 = 2",
        "set trainer.batch_rows=4",
    ),
    "missing checkpoint": (f"{NO_FILES} resume={{w}}/nowhere", "{w}/nowhere does not exist", "expected a run folder"),
    "folder without checkpoints": (f"{NO_FILES} resume={{w}}/empty", "no valid checkpoint in {w}/empty", "step-"),
    "truncated checkpoint": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/truncated",
        "no valid checkpoint",
        "has 1000 bytes, expected",
        "Start the run again",
    ),
    "truncated checkpoint, named itself": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/truncated/checkpoints/step-00000002",
        "has 1000 bytes, expected",
        "use an earlier one",
    ),
    "checkpoint with a flipped bit": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/flipped",
        "SHA-256 differs",
        "use an earlier checkpoint",
    ),
    "checkpoint without its seal": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/unsealed",
        "is not a checkpoint of this project",
        "initial_weights=HUGGING_FACE_FOLDER",
    ),
    "checkpoint of another model": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/other_model",
        "the checkpoint of another model",
        "model.width is 64, expected 32",
        "Remove it",
    ),
    "pickle for a checkpoint": (
        f"{NO_FILES} resume={{w}}/planted.ckpt",
        "{w}/planted.ckpt is a file, expected a run folder",
        "initial_weights=FOLDER",
    ),
    "pickle in a sealed checkpoint": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/pickled",
        "something else than tensors and plain values",
        "nothing in it was run",
        "Use a checkpoint that Litespark wrote",
    ),
    "address for a checkpoint": (
        f"{NO_FILES} resume=https://example.org/run",
        "got the address https://example.org/run, expected a local folder",
        "copy the run folder here",
    ),
    "run that is finished": (
        f"{NO_FILES} resume={{w}}/logs/runs/synthetic",
        "step 2 of 2 and finished",
        "raise budget.tokens",
    ),
    "model changed on resume": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/logs/runs/synthetic model.width=64",
        "model.width: was 32, is now 64",
        "give the same overrides again",
    ),
    "data changed on resume": (
        f"{NO_FILES} budget.steps=9 resume={{w}}/logs/runs/synthetic data.sequence_length=16 seed=2",
        "data.sequence_length: was 32, is now 16",
        "seed: was 1234, is now 2",
        "or start a new run",
    ),
    "file for the folder of runs": (f"{NO_FILES} paths.logs={{w}}/file", "cannot write below {w}/file", "set paths.l"),
    "name of an earlier run": (f"{NO_FILES} name=synthetic", "exists already", "choose another name", "resume="),
    "name with a path": (f"{NO_FILES} name=../up", "got '../up', expected a plain folder name"),
    "file for initial weights": (f"{NO_FILES} initial_weights={{w}}/file", "got {w}/file, expected a Hugging Face"),
    "initial weights without files": (f"{NO_FILES} initial_weights={{w}}/empty", "config.json cannot be read", "comp"),
    "initial weights of another shape": (
        f"{NO_FILES} initial_weights={{w}}/weights",
        "width=64",
        "expected what model=tiny states",
        "set model.width=64",
    ),
    "target that calls a function": ("optim._target_=os.system", "optim._target_: got the target 'os.system'", "exp"),
    "target that deletes": (
        "optim._target_=pathlib.Path.unlink +optim.self={w}/victim",
        "'pathlib.Path.unlink', expected a class below litespark.",
        "LITESPARK_ALLOWED_TARGETS",
    ),
    "target reached through a module of ours": (
        "optim._target_=litespark.experiment.run.shutil.rmtree +optim.path={w}/text",
        "'litespark.experiment.run.shutil.rmtree', expected a class",
    ),
    "function of ours for a target": (
        "optim._target_=litespark.callbacks.checkpoint_folder.prune",
        "prune', expected a class below litespark.",
    ),
    "target deep inside": (
        "+optim.deep.list=[{{_target_:os.system}}]",
        "optim.deep.list[0]._target_: got the target 'os.system'",
    ),
}
