// In place of the headers of cuBLAS, cuSPARSE and cuSOLVER: the types that ATen's CUDA headers name in declarations, and
// nothing of which is used here.
#pragma once

typedef struct cublasContext* cublasHandle_t;
typedef struct cublasLtContext* cublasLtHandle_t;
typedef struct cusparseContext* cusparseHandle_t;
typedef struct cusolverDnContext* cusolverDnHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
typedef enum { CUSPARSE_STATUS_SUCCESS = 0 } cusparseStatus_t;
typedef enum { CUSOLVER_STATUS_SUCCESS = 0 } cusolverStatus_t;

extern "C" {
const char* cublasGetStatusString(cublasStatus_t status);
const char* cusparseGetErrorString(cusparseStatus_t status);
}
