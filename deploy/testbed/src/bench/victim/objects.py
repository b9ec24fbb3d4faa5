"""A program with so many MiB of objects, to crash: objects.py MIB."""

import gc
import json
import os
import random
import sys

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()

rng = random.Random(4)  # the same objects each time; where they are is the system's choice


def user(number):
    return {
        "id": number,
        "name": f"user-{number}",
        "email": f"user{rng.randrange(1 << 30)}@example.com",
        "token": rng.randbytes(16).hex(),
        "score": rng.random(),
        "tags": [rng.choice(WORDS) for _ in range(3)],
        "visits": [rng.randrange(1 << 30) for _ in range(10)],
        "at": (rng.random() * 180 - 90, rng.random() * 360 - 180),
    }


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    gc.disable()  # there is no garbage
    users, index = [], {}
    wanted = int(sys.argv[1]) << 20
    while resident() < wanted:
        for number in range(len(users), len(users) + 1000):
            made = user(number)
            users.append(made)
            index[f"user:{number:08}"] = made
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.read()


main()
