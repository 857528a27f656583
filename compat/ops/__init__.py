"""The operators of mmcv that mmdet and mmseg use, a file a family, with the signatures of `mmcv._ext`.

Each function writes into the output tensors that mmcv's Python wrappers allocate and pass, as the compiled ones do, and
runs on any device. The C++ and CUDA sources that mmcv-lite ships define what each has to compute.
"""
