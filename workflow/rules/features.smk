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
        mem_mb=memory(encoder_memory("features")),
        runtime=minutes(240),
        gpu=gpus_of("features"),
        gpu_model=gpu_type_of("features"),
        device=operations("features", "device"),
    params:
        settings=settings("features"),
    message:
        "features of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal features --settings {params.settings:q} --captions {input.captions:q} --part {wildcards.part}"
        " --device {resources.device:q} --output {output:q} > {log:q} 2>&1"


# Of synthetic images a job makes one part, or `features.parts_per_job`, whose finished ones are kept (`update`).
if PARTS_PER_JOB == 1:

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
        threads: feature_threads
        resources:
            mem_mb=memory(encoder_memory("features")),
            runtime=minutes(240),
            gpu=gpus_of("features"),
            gpu_model=gpu_type_of("features"),
            device=operations("features", "device"),
            workers=decoders,
        params:
            settings=settings("features"),
        message:
            "features of {wildcards.run}, part {wildcards.part}"
        shell:
            "t2ipal features --settings {params.settings:q} --shard-file {input.shard:q}"
            " --workers {resources.workers} --device {resources.device:q} --output {output:q} > {log:q} 2>&1"


for number, batch in enumerate(PART_BATCHES):

    rule:
        name:
            f"features_synthetic_{number}"
        input:
            # `ancient`, as above.
            lambda wildcards, batch=batch: units() and [ancient(path) for path in part_inputs(batch)],
        output:
            update(part_outputs(batch)),
        log:
            f"{RESULTS}/logs/features/{batch.name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/features/{batch.name}.tsv"
        conda:
            "../../envs/t2ipal.yaml"
        threads: lambda wildcards, batch=batch: max(THREADS, decoders_of(operation(batch.unit)))
        resources:
            mem_mb=memory(
                lambda wildcards, batch=batch: demands.encoder_memory(
                    batch.unit.settings["backbone"], decoders_of(operation(batch.unit))
                )
            ),
            runtime=minutes(240),
            gpu=lambda wildcards, batch=batch: gpus(operation(batch.unit)["device"]),
            gpu_model=lambda wildcards, batch=batch: gpu_type(operation(batch.unit)["device"]),
            device=operation(batch.unit)["device"],
            workers=lambda wildcards, threads, batch=batch: str(threads if decoders_of(operation(batch.unit)) else 0),
        params:
            settings=lambda wildcards, batch=batch: canonical_json(batch.unit.settings),
            # A function of `output` is no reason to rerun: which parts share a job says nothing of them.
            parts=lambda wildcards, output, batch=batch: part_options(batch),
        message:
            f"features of {len(batch.pieces)} shards: {batch.name}"
        shell:
            "t2ipal features --settings {params.settings:q} {params.parts:q}"
            " --workers {resources.workers} --device {resources.device:q} > {log:q} 2>&1"


rule features_images:
    input:
        # `ancient`: what a list of images holds is in its path's fingerprint.
        lambda wildcards: [ancient(path) for above in unit("features", wildcards).upstream for path in files(above)],
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
    threads: feature_threads
    resources:
        mem_mb=memory(encoder_memory("features")),
        runtime=minutes(240),
        gpu=gpus_of("features"),
        gpu_model=gpu_type_of("features"),
        device=operations("features", "device"),
        workers=decoders,
        missing=operations("features", "missing"),
    params:
        settings=settings("features"),
        index=image_options,
    message:
        "features of {wildcards.run}, part {wildcards.part}"
    shell:
        "t2ipal features --settings {params.settings:q} {params.index:q} --part {wildcards.part}"
        " --missing {resources.missing} --workers {resources.workers} --device {resources.device:q}"
        " --output {output:q} > {log:q} 2>&1"
