rule captions:
    output:
        ensure(f"{RESULTS}/captions/{{run}}/captions.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/captions/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/captions/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    resources:
        mem_mb=caption_memory(),
        runtime=720,
        gpu=gpus(CONFIG.captions.llm.device) if llm_in_job() else 0,
        device=CONFIG.captions.llm.device if llm_in_job() else "cpu",
    params:
        settings=settings("captions"),
        # A function of `output` is no reason to rerun: how to go about it changes no caption.
        operation=lambda wildcards, output: canonical_json(LAYOUT.captions_operation()),
    message:
        "captions of {wildcards.run}"
    shell:
        "t2ipal captions --settings {params.settings:q} --operation {params.operation:q}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"
