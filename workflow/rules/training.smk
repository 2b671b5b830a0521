# One job per method and seed. Methods that learn nothing have no input and exist once for all seeds.
rule training:
    input:
        lambda wildcards: [path for above in unit("training", wildcards).upstream for path in files(above)],
    output:
        weights=ensure(f"{RESULTS}/training/{{run}}/model.safetensors", non_empty=True),
        manifest=ensure(f"{RESULTS}/training/{{run}}/model.json", non_empty=True),
    log:
        f"{RESULTS}/logs/training/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/training/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus(CONFIG.features.device),
        device=CONFIG.features.device,
    params:
        settings=settings("training"),
    message:
        "training of {wildcards.run}"
    shell:
        "t2ipal training --settings {params.settings:q} --device {resources.device:q}"
        " --output {output.manifest:q} {input:q} > {log:q} 2>&1"
