rule captions:
    input:
        lambda wildcards: needs(unit("captions", wildcards)),
    output:
        ensure(f"{RESULTS}/captions/{{run}}/captions.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/captions/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/captions/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    resources:
        mem_mb=memory(caption_memory),
        runtime=minutes(720),
        gpu=lambda wildcards: gpus(caption_device(wildcards)),
        gpu_model=lambda wildcards: gpu_type(caption_device(wildcards)),
        device=caption_device,
    params:
        settings=settings("captions"),
        # A function of `output` is no reason to rerun: how to go about it changes no caption.
        operation=lambda wildcards, output: canonical_json(unit("captions", wildcards).operation),
    message:
        "captions of {wildcards.run}"
    shell:
        "t2ipal captions --settings {params.settings:q} --operation {params.operation:q}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"
