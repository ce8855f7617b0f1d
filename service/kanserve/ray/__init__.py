"""kanserve on Ray, with the extra `ray`.

    kanserve.ray.fleet    whole servers that Ray places and restarts, behind HAProxy; use it for throughput

`import ray` in these modules means the package Ray, never this one.
"""
