# Training of the embedded models: `snakemake --cores 2 pack`, again until it is done; then `snakemake pack_gates`.
# Training states lie beside the declared files and survive a kill, so every sitting goes on from the last one.
PACK = CONFIG.pack.directory
PACK_STEPS = {
    "tokenizer": ([], []),
    "clip": (["tokenizer"], ["clip_samples"]),
    "autoencoder": ([], ["autoencoder_samples"]),
    "latents": (["autoencoder"], ["latents"]),
    "generator": (["tokenizer", "latents"], ["generator_samples"]),
    "judge": ([], ["judge_samples"]),
    "export": (["clip", "generator"], ["models"]),
}


rule pack:
    input:
        f"{PACK}/export.json",
    message:
        "the pack is trained and exported"


rule pack_step:
    input:
        lambda wildcards: [f"{PACK}/{step}.json" for step in PACK_STEPS[wildcards.step][0]],
    output:
        ensure(f"{PACK}/{{step}}.json", non_empty=True),
    log:
        f"{RESULTS}/logs/pack/{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pack/{{step}}.tsv"
    wildcard_constraints:
        step="|".join(PACK_STEPS),
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(4000),
        runtime=CONFIG.pack.sitting_minutes + 30,
        minutes=CONFIG.pack.sitting_minutes,
    params:
        settings=lambda wildcards: canonical_json(
            {key: getattr(CONFIG.pack, key) for key in PACK_STEPS[wildcards.step][1]}
        ),
    message:
        "pack: {wildcards.step}"
    shell:
        "t2ipal pack train {wildcards.step} --settings {params.settings:q}"
        " --minutes {resources.minutes} --output {output:q} > {log:q} 2>&1"


rule pack_gates:
    input:
        judge=f"{PACK}/judge.json",
        model=lambda wildcards: files(LAYOUT.training("tai-dpt", CONFIG.seeds[0])),
        val=lambda wildcards: files(LAYOUT.features("val", CONFIG.seeds[0])),
    output:
        figures=ensure(f"{PACK}/gates.json", non_empty=True),
        pictures=expand(f"{PACK}/{{name}}.png", name=["gates", "curves"]),
    log:
        f"{RESULTS}/logs/pack/gates.log",
    benchmark:
        f"{RESULTS}/benchmarks/pack/gates.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    params:
        settings=canonical_json(CONFIG.synthesis.model_dump(mode="json")),
        model=lambda wildcards: LAYOUT.directory(LAYOUT.training("tai-dpt", CONFIG.seeds[0])),
        val=lambda wildcards, input: [word for path in input.val for word in ("--val", path)],
        directory=lambda wildcards, input: os.path.dirname(input.judge),
    message:
        "pack: gates"
    shell:
        "t2ipal pack gates --settings {params.settings:q} --model {params.model:q} {params.val:q}"
        " --directory {params.directory:q} --output {output.figures:q} > {log:q} 2>&1"
