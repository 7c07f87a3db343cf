"""When each step of a trainer ended, and what it had cost by then."""

import os
import time

import transformers


def since_start():
    """Seconds since the kernel started this process."""
    with open("/proc/self/stat") as stat:
        started = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime") as uptime:
        return float(uptime.read().split()[0]) - started


class Clock(transformers.TrainerCallback):
    def __init__(self):
        self.ends, self.cpu, self.first = [], [], None

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())
        self.cpu.append(sum(os.times()[:2]))
        self.first = self.first or since_start()
