// Shared libraries opened at run time.
#include "titan.h"

#include <dlfcn.h>
#include <link.h>

#include <string>

extern "C" {

// Opens a library for good, its symbols visible to those opened later; every symbol that it needs must be there.
char* titan_library_open(const char* path, void** out) {
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return strdup(dlerror());
  *out = library;
  return nullptr;
}

char* titan_library_symbol(void* library, const char* name, void** out) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) return strdup(("no symbol " + std::string(name)).c_str());
  *out = symbol;
  return nullptr;
}

// The file of a library that is loaded already; null where it is not. Text that the caller frees.
char* titan_library_path(const char* name, char** out) {
  *out = nullptr;
  void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  struct link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) == 0) *out = strdup(map->l_name);
  dlclose(library);
  return nullptr;
}

}  // extern "C"
