"""Acquisition: files of the public benchmarks, downloaded, checked and unpacked."""
