#!/usr/bin/env python3
"""Compares how much faster the fast codecs are than the plain ones with a recorded baseline; ratios only, no times.

usage: ratios.py BENCH_OUTPUT BASELINE.csv [--record]
The ratio is of the shortest times of one run of `go test -bench`, which load disturbs least. It fails where one fell below 0.2
of what is recorded; codecs that the baseline or this processor does not know are passed over.
"""
import collections, csv, re, sys

output, baseline = sys.argv[1:3]
times = collections.defaultdict(list)
for line in open(output):
    if m := re.match(r'Benchmark(\w+)/type=(\w+)/codec=(\w+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op', line):
        times[m[1], m[2], m[3]].append(float(m[4]))
best = {k: min(v) for k, v in times.items()}
ratios = {k: best[k[0], k[1], 'plain'] / t for k, t in best.items() if k[2] != 'plain'}
if '--record' in sys.argv:
    with open(baseline, 'w', newline='') as f:
        w = csv.writer(f, lineterminator='\n')
        w.writerow(['benchmark', 'type', 'codec', 'ratio'])
        w.writerows([*k, f'{r:.1f}'] for k, r in sorted(ratios.items()))
    sys.exit()
lost = checked = 0
for row in csv.DictReader(open(baseline)):
    key = row['benchmark'], row['type'], row['codec']
    if key in ratios and float(row['ratio']) >= 2:
        checked += 1
        if ratios[key] < 0.2 * float(row['ratio']):
            lost += 1
            print(f'{" ".join(key)}: {ratios[key]:.1f}x plain, recorded {row["ratio"]}x')
print(f'{checked - lost} of {checked} recorded ratios hold')
sys.exit(lost > 0)
