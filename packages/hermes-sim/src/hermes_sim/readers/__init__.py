"""Files of other simulators and engines: profiles, runs, traces."""
