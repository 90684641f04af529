"""Readers and writers of the artifacts that several stages share: image sets, teachers, pools, episodes, networks."""
