"""Exact nearest shapes under the geometric score of RESAIL (eq. 2 to 4)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.data.transforms import nearest_resize
from pipelines.index.shape_kernels import BLOCK, BYTES, CELLS, POOLS, SIDE, WORDS, Layout, Shapes, fingerprint, pool, search_queries

CANONICAL=SIDE
def canonical_mask(mask):
    return nearest_resize(mask,(128,128))
@dataclass(frozen=True)
class ShapeScore:
    gamma: float = 1.0
    strict: bool = False

def _octave(a): return np.frexp(a.astype(np.float64))[1]
class ShapeSearch:
    def __init__(self,masks,areas,categories,*,score):
        self.score=score; self.flush=(2,24)
        n=len(masks)
        words=np.ascontiguousarray(masks).view(np.uint64)
        counts=np.empty(n,np.int32);h=np.empty(n,np.uint64)
        factors=np.random.default_rng(0).integers(0,2**63,WORDS).astype(np.uint64)*np.uint64(2)+np.uint64(1)
        fingerprint(words,factors,counts,h)
        octave=_octave(areas)
        rows=np.arange(n)
        o=np.lexsort((rows,h,counts,octave,categories))
        new=np.ones(n,bool)
        for s in range(1,n,4096):
            a,b=o[s-1:s+4095][:len(o[s:s+4096])],o[s:s+4096]
            new[s:s+4096]=(octave[a]!=octave[b])|(categories[a]!=categories[b])|(h[a]!=h[b])
            same=np.flatnonzero(~new[s:s+4096])
            new[s+same]=(masks[a[same]]!=masks[b[same]]).any(1)
        member_start=np.append(np.flatnonzero(new),n).astype(np.int32)
        f=o[member_start[:-1]]; m=len(f)
        W=np.empty((m,WORDS),np.uint64);cells=np.empty((m,4*CELLS),np.uint8);P=np.empty((m,POOLS),np.uint16)
        for s in range(0,m,4096):
            W[s:s+4096]=words[f[s:s+4096]]; pool(W[s:s+4096].view(np.uint8),cells[s:s+4096],P[s:s+4096])
        cat=categories[f];oc=octave[f]
        bnew=np.append(True,(cat[1:]!=cat[:-1])|(oc[1:]!=oc[:-1]))
        bs=np.append(np.flatnonzero(bnew),m)
        shape_start=np.concatenate([np.arange(lo,hi,BLOCK) for lo,hi in zip(bs[:-1],bs[1:])]+[[m]]).astype(np.int32)
        block_start=np.searchsorted(shape_start,bs).astype(np.int32)
        flat=np.zeros(m*POOLS+BLOCK,np.uint16)
        for lo,hi in zip(shape_start[:-1],shape_start[1:]): flat[lo*POOLS:hi*POOLS]=P[lo:hi].T.ravel()
        A=areas[o]
        ba=np.array([[A[member_start[lo]:member_start[hi]].min(),A[member_start[lo]:member_start[hi]].max()] for lo,hi in zip(bs[:-1],bs[1:])])
        cats,cs=np.unique(cat[bs[:-1]],return_index=True)
        self.shapes=Shapes(W,cells,flat,counts[f])
        self.layout=Layout(cats.astype(np.int32),np.append(cs,len(bs)-1).astype(np.int32),ba,block_start,shape_start,member_start,o.astype(np.int32),A)
    def search(self,masks,areas,categories,k,*,exclude=None,keys=None,threads=1,chunk=None,order=True):
        nq=len(masks)
        cells=np.empty((nq,4*CELLS),np.uint8);P=np.empty((nq,POOLS),np.uint16);counts=np.empty(nq,np.int32);h=np.empty(nq,np.uint64)
        w=masks.view(np.uint64)
        pool(masks,cells,P); fingerprint(w,np.ones(WORDS,np.uint64),counts,h)
        Q=Shapes(w,cells,P,counts)
        if keys is None: keys=np.empty(0,np.int64)
        if exclude is None: exclude=np.full(nq,-1)
        R=np.full((nq,k),-1);S=np.full((nq,k),np.inf);work=np.zeros((nq,4),np.int64)
        o=np.lexsort((counts,_octave(areas),categories)) if order else np.arange(nq)
        self.Q=(Q,areas,categories,exclude,o)
        chunk=chunk or 64
        def run(s): search_queries(Q,areas,categories,exclude,o,s,min(s+chunk,nq),self.shapes,self.layout,keys,self.score.gamma,self.score.strict,R,S,work,*self.flush)
        with ThreadPoolExecutor(threads) as pool_: list(pool_.map(run,range(0,nq,chunk)))
        self.work=work
        return R,S
