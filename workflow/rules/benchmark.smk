# Downloads: one rule per item of the catalogue. What is broken off is kept beside and continued.
for manifest, (name, benchmark) in DOWNLOADS.items():

    rule:
        name:
            f"acquire_{name.replace('-', '_')}"
        output:
            ensure(manifest, non_empty=True),
        log:
            f"{RESULTS}/logs/acquire/{name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/acquire/{name}.tsv"
        localrule: True
        # An address that fails is left to the next one, and to the next run; the job itself tries again for long.
        conda:
            "../../envs/t2ipal.yaml"
        resources:
            mem_mb=1000,
            runtime=1440,
        params:
            name=name,
            # The manifest lies at the root of the downloads.
            downloads=lambda wildcards, output: os.path.dirname(output[0]) or ".",
            # A function of `output` is no reason to rerun: an address says nothing of what it gives.
            mirrors=lambda wildcards, output, benchmark=benchmark: [
                word for mirror in benchmark.mirrors for word in ("--mirror", mirror)
            ],
        message:
            f"download of {name}"
        shell:
            "t2ipal acquire {params.name:q} --downloads {params.downloads:q} {params.mirrors:q}"
            " --output {output:q} > {log:q} 2>&1"


# The images of one split with their labels, checked once.
rule index:
    input:
        lambda wildcards: needs(unit("index", wildcards)),
    output:
        ensure(f"{RESULTS}/index/{{run}}/index.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/index/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/index/{{run}}.tsv"
    localrule: True
    conda:
        "../../envs/t2ipal.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(4000),
        runtime=minutes(60),
        missing=operations("index", "missing"),
    params:
        settings=settings("index"),
    message:
        "index of {wildcards.run}"
    shell:
        "t2ipal index --settings {params.settings:q} --missing {resources.missing}"
        " --output {output:q} > {log:q} 2>&1"
