"""How the ranks of a job share one model, and how the job ends when one of them dies.

- `choice`: the config's key `parallel`: ddp, zero1 or fsdp.
- `sharding`: a model whose parameters, gradients and optimizer state are spread over the ranks (`fully_shard`).
- `zero`: an optimizer whose state is spread over the ranks, under DistributedDataParallel.
- `folder`: checkpoints of a file a rank, and one file of weights made of them.
- `batch_norm`: what `sync_bn` of a config needs.
- `lifeline`: a rank that dies is noticed and named at once.
- `logs`: a log file a rank.
"""
