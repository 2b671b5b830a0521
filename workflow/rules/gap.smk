# The modality gap of one seed: text, synthetic and real features, and class embeddings before and after tuning.
rule gap:
    input:
        lambda wildcards: [path for above in unit("gap", wildcards).upstream for path in files(above)],
    output:
        ensure(f"{RESULTS}/gap/{{run}}/gap.json", non_empty=True),
    log:
        f"{RESULTS}/logs/gap/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gap/{{run}}.tsv"
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
    params:
        settings=settings("gap"),
        options=lambda wildcards: gap_options(unit("gap", wildcards)),
    message:
        "modality gap of {wildcards.run}"
    shell:
        "t2ipal gap --settings {params.settings:q} {params.options:q} --output {output:q} > {log:q} 2>&1"
