# The tar is complete when the json beside it is there; both are renamed into place, the json last.
# The device is a resource, not a param: where images are drawn is no reason to draw them again.
rule synthesis:
    input:
        captions=lambda wildcards: files(upstream(unit("synthesis", wildcards), "captions")),
    output:
        shard=ensure(f"{RESULTS}/synthesis/{{run}}/shard-{{shard}}.tar", non_empty=True),
        manifest=ensure(f"{RESULTS}/synthesis/{{run}}/shard-{{shard}}.json", non_empty=True),
    log:
        f"{RESULTS}/logs/synthesis/{{run}}/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/synthesis/{{run}}/shard-{{shard}}.tsv"
    wildcard_constraints:
        shard=r"\d+",
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=gpus(CONFIG.synthesis.device),
        device=CONFIG.synthesis.device,
    params:
        settings=settings("synthesis"),
    message:
        "images of {wildcards.run}, shard {wildcards.shard}"
    shell:
        "t2ipal synthesis --settings {params.settings:q} --captions {input.captions:q} --shard {wildcards.shard}"
        " --device {resources.device:q} --output {output.shard:q} > {log:q} 2>&1"
