"""Host compilers and CUDA toolkits: found, or made of what a package index or NVIDIA's archives hold."""
