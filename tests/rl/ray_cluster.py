"""A Ray cluster on this machine, of as many nodes of one CPU as is said, as a process: says its address; `kill 1` on its input kills a
node, 0 the head's."""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.head_node, *(cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]) - 1))]
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        nodes[int(line.split()[1])].kill_all_processes(check_alive=False, allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()
