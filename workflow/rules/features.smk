# One rule per kind of input; the run's name tells which one it is.
rule features_captions:
    input:
        captions=lambda wildcards: files(upstream(unit("features", wildcards), "captions")),
    output:
        ensure(f"{RESULTS}/features/{{run}}/part-{{part}}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/features/{{run}}/part-{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/features/{{run}}/part-{{part}}.tsv"
    wildcard_constraints:
        run=r"[^/]+-captions-s\d+-[0-9a-f]{12}",
        part=r"\d+",
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=gpus(CONFIG.features.device),
        device=CONFIG.features.device,
    params:
        settings=settings("features"),
    message:
        "features of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal features --settings {params.settings:q} --captions {input.captions:q} --part {wildcards.part}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"


rule features_synthetic:
    input:
        # `ancient`: a job that drew other shards beside it has changed nothing in this one.
        shard=lambda wildcards: ancient(shard_files("features", wildcards)[0]),
        manifest=lambda wildcards: ancient(shard_files("features", wildcards)[1]),
    output:
        ensure(f"{RESULTS}/features/{{run}}/part-{{part}}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/features/{{run}}/part-{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/features/{{run}}/part-{{part}}.tsv"
    wildcard_constraints:
        run=r"[^/]+-synthetic-s\d+-[0-9a-f]{12}",
        part=r"\d+(-r\d+)?(-n\d+)?",
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=gpus(CONFIG.features.device),
        device=CONFIG.features.device,
    params:
        settings=settings("features"),
    message:
        "features of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal features --settings {params.settings:q} --shard-file {input.shard:q}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"


rule features_images:
    output:
        ensure(f"{RESULTS}/features/{{run}}/part-{{part}}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/features/{{run}}/part-{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/features/{{run}}/part-{{part}}.tsv"
    wildcard_constraints:
        run=r"[^/]+-(train|val|test)-[0-9a-f]{12}",
        part=r"\d+",
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=gpus(CONFIG.features.device),
        device=CONFIG.features.device,
    params:
        settings=settings("features"),
    message:
        "features of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal features --settings {params.settings:q} --part {wildcards.part}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"
