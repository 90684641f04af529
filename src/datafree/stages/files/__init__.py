"""Reading and writing artifacts that several stages share: image sets, teachers, pools, episodes, networks."""
