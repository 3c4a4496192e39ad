"""Dashboards: what is known of a coder's latents, in files that other programs show, and from them.

neuronpedia     bulk export v1 of neuronpedia.org: written from a harvest; published ones are read into a store
circuit_tracer  feature files of circuit-tracer's attribution graphs: written from a harvest
"""
