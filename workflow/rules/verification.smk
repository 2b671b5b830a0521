# Only where a method has `training.labels` filtered or soft, or `verification_all` is asked for.
rule verification:
    input:
        # `ancient`: a job that drew other shards beside it has changed nothing in this one.
        shard=lambda wildcards: ancient(shard_files("verification", wildcards)[0]),
        manifest=lambda wildcards: ancient(shard_files("verification", wildcards)[1]),
    output:
        ensure(f"{RESULTS}/verification/{{run}}/part-{{part}}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/verification/{{run}}/part-{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/verification/{{run}}/part-{{part}}.tsv"
    wildcard_constraints:
        part=r"\d+(-r\d+)?(-n\d+)?",
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(encoder_memory("verification")),
        runtime=minutes(240),
        gpu=gpus_of("verification"),
        gpu_model=gpu_type_of("verification"),
        device=operations("verification", "device"),
    params:
        settings=settings("verification"),
    message:
        "verification of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal verification --settings {params.settings:q} --shard-file {input.shard:q}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"
