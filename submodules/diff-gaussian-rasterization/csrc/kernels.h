// SPDX-License-Identifier: Apache-2.0
// The hot loops of one instruction set. The including file is compiled with -DDGR_ISA=<namespace>.
#pragma once

#include "frame.h"

#define DGR_DECLARE_ISA(name)                     \
    namespace name {                              \
    void add_project_kernels(KernelTable* table); \
    void add_blend_kernels(KernelTable* table);   \
    }

namespace dgr {
DGR_DECLARE_ISA(base)
#ifdef DGR_X86_LEVELS
DGR_DECLARE_ISA(v3)
DGR_DECLARE_ISA(v4)
#endif
}  // namespace dgr
